-- How did each round come out? One row for each (run, round) whose report is published.
--
-- run_id: the run
-- round: round of the run; 0 is the warm start
-- judge: the evaluation judge behind the columns without a judge's name: truth where there is one, else one that the run
--   had from its beginning; null for none
-- violation_rate: share of held-out forbidden prompts complied with
-- violation_low: lower end of the 95 % interval
-- violation_high: upper end
-- violation_n: answers judged
-- violation_rate_safety: the same by the safety reward model, which also selects
-- violation_low_safety: lower end of the 95 % interval
-- violation_high_safety: upper end
-- violation_n_safety: answers judged
-- neither_rate: share of forbidden prompts neither complied with nor refused
-- neither_n: answers judged
-- benign_refusal_rate: share of benign look-alikes refused
-- benign_refusal_low: lower end of the 95 % interval
-- benign_refusal_high: upper end
-- benign_refusal_n: answers judged
-- benign_on_topic_rate: share of benign look-alikes answered on topic
-- benign_on_topic_n: answers judged
-- attack_success_rate: share of the round's attacks that drew a violation, any of the answers without preamble
-- attack_success_low: lower end of the 95 % interval
-- attack_success_high: upper end
-- attack_success_n: attacks judged
-- adversary_success_warm_start: share of the adversary's held-out attacks that the warm start complies with
-- adversary_success_current: the same against the target in force
-- prompts_written: outcomes of the attack, errors included
-- distinct_attacks: distinct texts among them
-- rows_kept: answers that selection kept
-- adversary_rows: rows of the adversary's training set
-- target_rows: rows of the target's training set
WITH metrics AS (
  SELECT m.*
  FROM {schema}.round_metrics AS m
  LEFT SEMI JOIN {schema}.published_steps AS p
    ON p.run_id = m.run_id AND p.round = m.round AND p.step = coalesce(m.step, 'report')
),
judges AS (
  -- The truth where there is one, else a judge that did not come later, that labels, or a guard.
  SELECT
    run_id,
    min_by(judge, struct(judge <> 'truth', coalesce(step, 'report') <> 'report', metric <> 'neither_rate', judge)) AS judge
  FROM metrics
  WHERE judge NOT IN ('safety', 'helpfulness', 'none')
  GROUP BY run_id
),
named AS (
  SELECT
    m.*,
    j.judge AS chief,
    -- What a metric is called here: judged by the evaluation judge, unless its name ends on another's.
    CASE
      WHEN m.judge IN (j.judge, 'none') THEN m.metric
      ELSE concat(m.metric, ':', m.judge)
    END AS figure
  FROM metrics AS m
  LEFT JOIN judges AS j ON j.run_id = m.run_id
)
SELECT
  run_id,
  round,
  any_value(chief) AS judge,
  max(value) FILTER (WHERE figure = 'violation_rate' AND slice = 'all') AS violation_rate,
  max(low) FILTER (WHERE figure = 'violation_rate' AND slice = 'all') AS violation_low,
  max(high) FILTER (WHERE figure = 'violation_rate' AND slice = 'all') AS violation_high,
  max(n) FILTER (WHERE figure = 'violation_rate' AND slice = 'all') AS violation_n,
  max(value) FILTER (WHERE figure = 'violation_rate:safety' AND slice = 'all') AS violation_rate_safety,
  max(low) FILTER (WHERE figure = 'violation_rate:safety' AND slice = 'all') AS violation_low_safety,
  max(high) FILTER (WHERE figure = 'violation_rate:safety' AND slice = 'all') AS violation_high_safety,
  max(n) FILTER (WHERE figure = 'violation_rate:safety' AND slice = 'all') AS violation_n_safety,
  max(value) FILTER (WHERE figure = 'neither_rate' AND slice = 'all') AS neither_rate,
  max(n) FILTER (WHERE figure = 'neither_rate' AND slice = 'all') AS neither_n,
  max(value) FILTER (WHERE figure = 'benign_refusal_rate' AND slice = 'all') AS benign_refusal_rate,
  max(low) FILTER (WHERE figure = 'benign_refusal_rate' AND slice = 'all') AS benign_refusal_low,
  max(high) FILTER (WHERE figure = 'benign_refusal_rate' AND slice = 'all') AS benign_refusal_high,
  max(n) FILTER (WHERE figure = 'benign_refusal_rate' AND slice = 'all') AS benign_refusal_n,
  max(value) FILTER (WHERE figure = 'benign_on_topic_rate' AND slice = 'all') AS benign_on_topic_rate,
  max(n) FILTER (WHERE figure = 'benign_on_topic_rate' AND slice = 'all') AS benign_on_topic_n,
  max(value) FILTER (WHERE figure = 'attack_success_rate' AND slice = 'all') AS attack_success_rate,
  max(low) FILTER (WHERE figure = 'attack_success_rate' AND slice = 'all') AS attack_success_low,
  max(high) FILTER (WHERE figure = 'attack_success_rate' AND slice = 'all') AS attack_success_high,
  max(n) FILTER (WHERE figure = 'attack_success_rate' AND slice = 'all') AS attack_success_n,
  max(value) FILTER (WHERE figure = 'adversary_success_rate' AND slice = 'target=warm_start')
    AS adversary_success_warm_start,
  max(value) FILTER (WHERE figure = 'adversary_success_rate' AND slice = 'target=current') AS adversary_success_current,
  max(n) FILTER (WHERE figure = 'prompts_written' AND slice = 'all') AS prompts_written,
  max(CAST(value AS BIGINT)) FILTER (WHERE figure = 'distinct_attacks' AND slice = 'all') AS distinct_attacks,
  max(n) FILTER (WHERE figure = 'responses_selected' AND slice = 'reason=passed') AS rows_kept,
  sum(n) FILTER (WHERE figure = 'training_rows' AND startswith(slice, 'role=adversary,')) AS adversary_rows,
  sum(n) FILTER (WHERE figure = 'training_rows' AND startswith(slice, 'role=target,')) AS target_rows
FROM named
GROUP BY run_id, round
