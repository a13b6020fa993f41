-- Which gate checks failed, what did they see, and who let the batch pass all the same? The batches themselves may be
-- unpublished: that is what a gate is for.
--
-- run_id: the run
-- round: round of the run
-- gate: adversarial_prompts, scores, curated_adversary, ...
-- check_name: the check
-- attempt: attempt of the step, from 1
-- expectation: the expectation's type
-- wanted: its parameters, JSON
-- observed: what was seen, JSON
-- rows: rows of the batch
-- suite_digest: digest of the suite
-- recorded_at: when it was checked, UTC
-- approved_by: who overrode the check, one after the other where several did; null for nobody
-- override_reason: why, in the same order
-- published: whether the step got past its gates in the end
WITH gated AS (
  SELECT
    run_id,
    round,
    explode(
      CASE step
        WHEN 'attack' THEN array('adversarial_prompts')
        WHEN 'score' THEN array('scores')
        WHEN 'curate_safety' THEN array('curated_safety_rm')
        WHEN 'curate_helpfulness' THEN array('curated_helpfulness_rm')
        ELSE array(concat('curated_', regexp_extract(step, '^curate_(?:warm_)?(.+)$', 1)))
      END
    ) AS gate
  FROM {schema}.published_steps
),
-- A check may be let pass more than once; a refusal stays one row.
overrides AS (
  SELECT
    run_id,
    round,
    gate,
    check_name,
    array_sort(collect_list(struct(recorded_at, approved_by, reason))) AS given
  FROM {schema}.gate_overrides
  GROUP BY run_id, round, gate, check_name
)
SELECT
  q.run_id,
  q.round,
  q.gate,
  q.check_name,
  q.attempt,
  q.expectation,
  q.wanted,
  q.observed,
  q.rows,
  q.suite_digest,
  q.recorded_at,
  array_join(o.given.approved_by, ', ') AS approved_by,
  array_join(o.given.reason, '; ') AS override_reason,
  g.gate IS NOT NULL AS published
FROM {schema}.quality_results AS q
LEFT JOIN overrides AS o
  ON o.run_id = q.run_id AND o.round = q.round AND o.gate = q.gate AND o.check_name = q.check_name
LEFT JOIN (SELECT DISTINCT run_id, round, gate FROM gated) AS g
  ON g.run_id = q.run_id AND g.round = q.round AND g.gate = q.gate
WHERE NOT q.success
