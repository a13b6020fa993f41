-- Where does an adversarial prompt come from, and did it succeed? One row for each prompt, errors included.
--
-- prompt_id: the prompt: its request id
-- run_id: the run
-- round: round of the run
-- purpose: attack, or evaluation of the adversary
-- checkpoint_id: the adversary that wrote it; null is the bare base
-- text: the prompt; null for an error
-- category: violation category meant
-- style: attack style meant
-- depth: generations since the seeds
-- parent_ids: examples it was conditioned on: seeds or prompts; held-out prompts where the adversary is evaluated
-- parent_texts: their texts, in the same order
-- root_seed_ids: seeds, or those held-out prompts, at the root of its ancestry
-- root_seed_texts: their texts, in the same order
-- screening: passed, or why the target was not asked; null where nothing was screened
-- answers: answers on which selection gave a verdict, those of later replays included
-- unsafe_answers: answers whose verdict is attack
-- succeeded: whether there is one; null while there is no verdict
WITH written AS (
  SELECT * FROM {schema}.adversarial_prompts LEFT SEMI JOIN {schema}.published_steps USING (run_id, round, step)
),
texts AS (
  SELECT id, any_value(text) AS text
  FROM (
    SELECT text_sha256 AS id, text FROM {schema}.seed_prompts
    UNION ALL
    SELECT text_sha256, text FROM {schema}.evaluation_prompts
  )
  GROUP BY id
  UNION ALL
  SELECT request_id, text FROM written
),
ancestors AS (
  SELECT request_id, 'parent' AS kind, posexplode(parent_ids) AS (place, id) FROM written
  UNION ALL
  SELECT request_id, 'root', posexplode(root_seed_ids) AS (place, id) FROM written
),
told AS (
  SELECT
    a.request_id,
    transform(array_sort(collect_list(struct(a.place, t.text)) FILTER (WHERE a.kind = 'parent')), x -> x.text)
      AS parent_texts,
    transform(array_sort(collect_list(struct(a.place, t.text)) FILTER (WHERE a.kind = 'root')), x -> x.text)
      AS root_seed_texts
  FROM ancestors AS a
  LEFT JOIN texts AS t ON t.id = a.id
  GROUP BY a.request_id
),
screened AS (
  SELECT s.prompt_id, s.run_id, s.round, s.reason
  FROM {schema}.prompt_screenings AS s
  LEFT SEMI JOIN {schema}.published_steps AS p
    ON p.run_id = s.run_id AND p.round = s.round AND p.step = 'screen'
),
selected AS (
  SELECT s.prompt_id, count(*) AS answers, count_if(s.verdict = 'attack') AS unsafe_answers
  FROM {schema}.selections AS s
  LEFT SEMI JOIN {schema}.published_steps AS p
    ON p.run_id = s.run_id AND p.round = s.round AND p.step = 'select'
  GROUP BY s.prompt_id
)
SELECT
  w.request_id AS prompt_id,
  w.run_id,
  w.round,
  w.purpose,
  w.checkpoint_id,
  w.text,
  w.category,
  w.style,
  w.depth,
  w.parent_ids,
  t.parent_texts,
  w.root_seed_ids,
  t.root_seed_texts,
  c.reason AS screening,
  coalesce(s.answers, 0) AS answers,
  coalesce(s.unsafe_answers, 0) AS unsafe_answers,
  s.unsafe_answers > 0 AS succeeded
FROM written AS w
LEFT JOIN told AS t ON t.request_id = w.request_id
LEFT JOIN screened AS c ON c.prompt_id = w.request_id AND c.run_id = w.run_id AND c.round = w.round
LEFT JOIN selected AS s ON s.prompt_id = w.request_id
