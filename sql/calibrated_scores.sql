-- How sure is a reward model, and how sure should it be? Each verdict as given, and at the temperature that fits its held-out labels best.
--
-- run_id: the run
-- round: round of the run
-- step: the step that scored
-- response_id: the response's request id
-- scorer: the judge's name
-- value: its verdict as selection and gates read it, in [0, 1]
-- temperature: of its held-out labels; above 1, it is too sure of itself; null for a rule, or where it had none
-- calibrated: the verdict with its logit divided by the temperature; as given, where there is none
WITH judges AS (
  SELECT
    run_id,
    scorer_digest,
    name,
    CAST(get_json_object(heldout_metrics, '$.heldout_temperature') AS DOUBLE) AS temperature
  FROM {schema}.scorers
)
SELECT
  s.run_id,
  s.round,
  s.step,
  s.response_id,
  s.scorer,
  s.value,
  j.temperature,
  IF(j.temperature IS NULL OR s.value IN (0, 1), s.value, 1 / (1 + pow(1 / s.value - 1, 1 / j.temperature))) AS calibrated
FROM {schema}.scores AS s
LEFT SEMI JOIN {schema}.published_steps AS p ON p.run_id = s.run_id AND p.round = s.round AND p.step = s.step
LEFT JOIN judges AS j ON j.run_id = s.run_id AND j.scorer_digest = s.scorer_digest AND j.name = s.scorer
WHERE s.status = 'ok' AND s.value IS NOT NULL
