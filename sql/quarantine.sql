-- What was kept apart, and why: outcomes with an error, prompts screened out, input rows that an import refused?
--
-- source_table: the table that holds the row
-- run_id: the run; null for an import
-- round: round of the run; null for an import
-- step: the step that kept it apart; null for an import
-- id: request id of the prompt or answer; import id and line for an import
-- reason: error_kind, no_verdict, the screening's reason, or the import's words
-- detail: the engine's or judge's words, the prompt it repeats, or the field at fault
-- text: what was written, asked or given
WITH written AS (
  SELECT * FROM {schema}.adversarial_prompts LEFT SEMI JOIN {schema}.published_steps USING (run_id, round, step)
),
screened AS (
  SELECT s.*
  FROM {schema}.prompt_screenings AS s
  LEFT SEMI JOIN {schema}.published_steps AS p
    ON p.run_id = s.run_id AND p.round = s.round AND p.step = 'screen'
)
SELECT
  'adversarial_prompts' AS source_table, run_id, round, step, request_id AS id, error_kind AS reason, error AS detail,
  raw_text AS text
FROM written
WHERE status = 'error'
UNION ALL
SELECT 'prompt_screenings', s.run_id, s.round, 'screen', s.prompt_id, s.reason, s.nearest_id, w.text
FROM screened AS s
LEFT JOIN written AS w ON w.request_id = s.prompt_id
WHERE NOT s.passed AND s.reason != 'error' -- an error stands there already, as an outcome
UNION ALL
SELECT 'responses', run_id, round, step, request_id, error_kind, error, prompt
FROM {schema}.responses
LEFT SEMI JOIN {schema}.published_steps USING (run_id, round, step)
WHERE status = 'error'
UNION ALL
SELECT 'scores', run_id, round, step, response_id, 'no_verdict', concat(scorer, ': ', coalesce(error, '')), NULL
FROM {schema}.scores
LEFT SEMI JOIN {schema}.published_steps USING (run_id, round, step)
WHERE status = 'error'
UNION ALL
SELECT 'import_refusals', NULL, NULL, NULL, concat(import_id, ':', line), reason, field, excerpt
FROM {schema}.import_refusals
LEFT SEMI JOIN {schema}.imports USING (import_id)
