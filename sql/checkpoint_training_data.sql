-- What made a checkpoint? Every row of its training set, with the rows of other tables that it went through.
-- The ids of prompts and answers are their request ids.
--
-- checkpoint_id: the checkpoint
-- position: place in the training set, from 0
-- run_id: the run; bootstrap for a warm checkpoint
-- round: round of the run
-- role: adversary, target, safety_rm or helpfulness_rm
-- split: train, or heldout rows that only measure a reward model
-- source: what kind of row it is
-- source_table: the table it came from
-- source_ids: keys in that table, or request ids
-- example_sha256: digest of its content
-- datasets: data sets that hold the source row; empty for what a model wrote
-- prompt_id: the adversarial prompt; null for a row that no model wrote
-- prompt_checkpoint_id: the adversary that wrote it; null is the bare base
-- parent_ids: examples the prompt was conditioned on
-- root_seed_ids: seeds at the root of its ancestry
-- depth: generations since the seeds
-- selections: the verdicts that let it in: answer, its target, round, verdict, S_s, S_h and who judged (judge, digest,
--   checkpoint where this project trained it); more than one where several answers make the prompt a success
WITH examples AS (
  SELECT
    e.*,
    CASE e.source_table WHEN 'adversarial_prompts' THEN e.source_ids[0] WHEN 'responses' THEN e.source_ids[1] END
      AS prompt_id
  FROM {schema}.training_examples AS e
  LEFT SEMI JOIN {schema}.published_checkpoints AS c ON c.checkpoint_id = e.checkpoint_id
),
rows AS (
  SELECT
    checkpoint_id, position, role, source, source_table, output, explode(array_distinct(source_ids)) AS id
  FROM examples
  WHERE source_table IN ('seed_prompts', 'instructions', 'preferences')
),
-- A text may stand in several data sets; what was learned from it tells which of them are meant.
named AS (
  SELECT
    r.checkpoint_id,
    r.position,
    array_sort(collect_set(coalesce(s.dataset, i.dataset, p.dataset))) AS datasets
  FROM rows AS r
  LEFT JOIN {schema}.seed_prompts AS s
    ON r.source_table = 'seed_prompts' AND s.text_sha256 = r.id AND (r.source != 'benign' OR s.answer = r.output)
  LEFT JOIN {schema}.instructions AS i
    ON r.source_table = 'instructions' AND i.text_sha256 = r.id AND i.answer = r.output
  LEFT JOIN {schema}.preferences AS p
    ON r.source_table = 'preferences' AND p.example_sha256 = r.id AND concat(p.aspect, '_rm') = r.role
  GROUP BY r.checkpoint_id, r.position
),
-- What a published checkpoint learned was published before it: no step runs until those it builds on are done.
let_in AS (
  SELECT e.checkpoint_id, e.position, v.response_id, v.round, v.verdict, v.safety, v.helpfulness
  FROM examples AS e
  INNER JOIN {schema}.selections AS v ON v.response_id = e.source_ids[0]
  WHERE e.source_table = 'responses' AND v.verdict = 'keep'
  UNION ALL
  -- A prompt that is replayed is judged again in a later round; this round's verdicts made it a training row.
  SELECT e.checkpoint_id, e.position, v.response_id, v.round, v.verdict, v.safety, v.helpfulness
  FROM examples AS e
  INNER JOIN {schema}.selections AS v ON v.prompt_id = e.prompt_id AND v.run_id = e.run_id AND v.round = e.round
  WHERE e.source_table = 'adversarial_prompts' AND v.verdict = 'attack'
),
judges AS (
  SELECT
    s.response_id,
    array_sort(collect_set(struct(s.scorer AS judge, s.scorer_digest AS digest, r.checkpoint_id AS checkpoint_id)))
      AS judges
  FROM {schema}.scores AS s
  INNER JOIN {schema}.scorers AS r
    ON r.run_id = s.run_id AND r.scorer_digest = s.scorer_digest AND r.name = s.scorer AND r.selects
  WHERE s.step = 'score'
  GROUP BY s.response_id
),
selected AS (
  SELECT
    l.checkpoint_id,
    l.position,
    array_sort(
      collect_list(
        struct(
          l.response_id,
          a.checkpoint_id AS target_checkpoint_id,
          l.round,
          l.verdict,
          l.safety,
          l.helpfulness,
          coalesce(j.judges, array()) AS judges
        )
      )
    ) AS selections
  FROM let_in AS l
  LEFT JOIN {schema}.responses AS a ON a.request_id = l.response_id
  LEFT JOIN judges AS j ON j.response_id = l.response_id
  GROUP BY l.checkpoint_id, l.position
)
SELECT
  e.checkpoint_id,
  e.position,
  e.run_id,
  e.round,
  e.role,
  e.split,
  e.source,
  e.source_table,
  e.source_ids,
  e.example_sha256,
  coalesce(n.datasets, array()) AS datasets,
  e.prompt_id,
  w.checkpoint_id AS prompt_checkpoint_id,
  w.parent_ids,
  w.root_seed_ids,
  w.depth,
  coalesce(s.selections, array()) AS selections
FROM examples AS e
LEFT JOIN named AS n ON n.checkpoint_id = e.checkpoint_id AND n.position = e.position
LEFT JOIN {schema}.adversarial_prompts AS w ON w.request_id = e.prompt_id
LEFT JOIN selected AS s ON s.checkpoint_id = e.checkpoint_id AND s.position = e.position
