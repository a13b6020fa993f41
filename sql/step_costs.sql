-- What did each published step cost, and how busy was the device meanwhile? Times are those of the attempt that was
-- published; tokens are those of the whole step, whichever attempt had them written.
--
-- run_id: the run
-- round: round of the run
-- step: name of the step
-- attempt: the attempt that was published, from 1
-- seconds: from its start to its end
-- busy_seconds: time in which its requests were asked, from their tasks' start to the last commit, or a trainer's process ran; shared out among steps side by side
-- busy_share: busy_seconds / seconds
-- rows: rows written
-- errors: requests without a usable answer
-- prompt_tokens: tokens read; of evaluate_score and judge_NAME, by judges behind endpoints
-- completion_tokens: tokens written, likewise
-- cost: of what was asked behind endpoints, in the currency of their prices; null where nothing was
-- tokens_per_second: tokens that this attempt had written, a second of busy_seconds, which steps side by side share
-- driven_by: who held the run meanwhile: a process (process:HOST:PID:…) or a scheduler's run (scheduler:NAME)
WITH timed AS (
  SELECT *, timestampdiff(MICROSECOND, started_at, ended_at) / 1e6D AS seconds FROM {schema}.published_steps
),
outcomes AS (
  SELECT run_id, round, step, recorded_at, completion_tokens FROM {schema}.adversarial_prompts
  UNION ALL
  SELECT run_id, round, step, recorded_at, completion_tokens FROM {schema}.responses
),
-- What an attempt that was killed had committed was not written in this one's time.
fresh AS (
  SELECT o.run_id, o.round, o.step, sum(o.completion_tokens) AS tokens
  FROM outcomes AS o
  INNER JOIN timed AS t
    ON t.run_id = o.run_id AND t.round = o.round AND t.step = o.step AND o.recorded_at >= t.started_at
  GROUP BY o.run_id, o.round, o.step
)
SELECT
  t.run_id,
  t.round,
  t.step,
  t.attempt,
  t.seconds,
  t.busy_seconds,
  CASE WHEN t.seconds > 0 THEN t.busy_seconds / t.seconds END AS busy_share,
  CAST(get_json_object(t.counts, '$.rows') AS BIGINT) AS rows,
  CAST(get_json_object(t.counts, '$.errors') AS BIGINT) AS errors,
  CAST(get_json_object(t.counts, '$.prompt_tokens') AS BIGINT) AS prompt_tokens,
  CAST(get_json_object(t.counts, '$.completion_tokens') AS BIGINT) AS completion_tokens,
  CAST(get_json_object(t.counts, '$.cost') AS DOUBLE) AS cost,
  CASE WHEN t.busy_seconds > 0 THEN f.tokens / t.busy_seconds END AS tokens_per_second,
  t.driven_by
FROM timed AS t
LEFT JOIN fresh AS f ON f.run_id = t.run_id AND f.round = t.round AND f.step = t.step
