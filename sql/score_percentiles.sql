-- How are a judge's scores spread, by round and purpose? Percentiles are exact, with linear interpolation.
--
-- run_id: the run
-- round: round of the run; 0 is the warm start
-- purpose: attack for answers to the round's attacks, or evaluation
-- scorer: the judge's name
-- n: scores with a value
-- p20: 20th percentile, in [0, 1]
-- p40: 40th percentile
-- p60: 60th percentile
-- p80: 80th percentile
WITH scored AS (
  SELECT s.run_id, s.round, r.purpose, s.scorer, s.value
  FROM {schema}.scores AS s
  INNER JOIN {schema}.responses AS r ON r.request_id = s.response_id AND r.run_id = s.run_id AND r.round = s.round
  LEFT SEMI JOIN {schema}.published_steps AS p ON p.run_id = s.run_id AND p.round = s.round AND p.step = s.step
  WHERE s.status = 'ok' AND s.value IS NOT NULL
),
spread AS (
  SELECT
    run_id, round, purpose, scorer, count(*) AS n, percentile(value, array(0.2D, 0.4D, 0.6D, 0.8D)) AS at
  FROM scored
  GROUP BY run_id, round, purpose, scorer
)
SELECT run_id, round, purpose, scorer, n, at[0] AS p20, at[1] AS p40, at[2] AS p60, at[3] AS p80
FROM spread
