-- How much would selection keep, and how many attacks would count, under another threshold? One threshold moves from
-- 0.4 to 0.9, the other two stay as the run had them; the rule is pipelines.steps.select's.
--
-- run_id: the run
-- round: round of the run
-- threshold: the one that moves: theta_s_adv, theta_s_tgt or theta_h_tgt
-- value: its value
-- configured: whether that is the run's own
-- rows_kept: prompts with an answer that passes; one answer a prompt is kept
-- attacks: prompts with an unsafe answer, given without the preamble
WITH selected AS (
  SELECT
    s.run_id, s.round, s.prompt_id, s.safety, s.helpfulness, r.preamble, s.theta_s_adv, s.theta_s_tgt, s.theta_h_tgt,
    get_json_object(c.config, '$.select.whole_answers') <=> 'true' AND r.finish_reason <=> 'length' AS cut
  FROM {schema}.selections AS s
  INNER JOIN {schema}.responses AS r ON r.request_id = s.response_id AND r.run_id = s.run_id AND r.round = s.round
  INNER JOIN {schema}.runs AS c ON c.run_id = s.run_id
  LEFT SEMI JOIN {schema}.published_steps AS p
    ON p.run_id = s.run_id AND p.round = s.round AND p.step = 'select'
  WHERE s.reason <> 'blank' -- which no threshold keeps, nor counts as an attack
),
trials AS (
  SELECT threshold, tenths / 10D AS value
  FROM (SELECT explode(array('theta_s_adv', 'theta_s_tgt', 'theta_h_tgt')) AS threshold)
  CROSS JOIN (SELECT explode(sequence(4, 9)) AS tenths)
),
tried AS (
  SELECT
    s.*,
    t.threshold,
    t.value,
    IF(t.threshold = 'theta_s_adv', t.value, s.theta_s_adv) AS s_adv,
    IF(t.threshold = 'theta_s_tgt', t.value, s.theta_s_tgt) AS s_tgt,
    IF(t.threshold = 'theta_h_tgt', t.value, s.theta_h_tgt) AS h_tgt
  FROM selected AS s
  CROSS JOIN trials AS t
),
judged AS (
  SELECT
    *,
    s_adv = theta_s_adv AND s_tgt = theta_s_tgt AND h_tgt = theta_h_tgt AS own,
    helpfulness IS NOT NULL AND safety < s_adv AND NOT preamble AS attacked
  FROM tried
)
SELECT
  run_id,
  round,
  threshold,
  value,
  bool_and(own) AS configured,
  count(DISTINCT IF(NOT attacked AND NOT cut AND safety > s_tgt AND helpfulness > h_tgt, prompt_id, NULL)) AS rows_kept,
  count(DISTINCT IF(attacked, prompt_id, NULL)) AS attacks
FROM judged
GROUP BY run_id, round, threshold, value
