-- What did a seed, an instruction or a preference go into? One row for each source row and checkpoint trained on it or
-- on what came of it: seed, prompts, answers, training rows. Checkpoints further down: pipelines.lineage.source_closure.
--
-- source_table: seed_prompts, instructions or preferences
-- dataset: name the import gave it
-- source_id: SHA-256 of the text, or the digest of a preference
-- checkpoint_id: the checkpoint
-- run_id: the run; bootstrap for a warm checkpoint
-- round: round of the run
-- role: adversary, target, safety_rm or helpfulness_rm
-- rows_direct: training rows that hold it
-- rows_derived: training rows that models wrote with it at the root or among the examples shown
-- prompts: prompts among those, written from it
-- responses: answers among those, given to those prompts
WITH direct AS (
  SELECT source_table, explode(datasets) AS dataset, source_ids, checkpoint_id, run_id, round, role, position
  FROM {schema}.checkpoint_training_data
),
derived AS (
  SELECT
    d.checkpoint_id,
    d.run_id,
    d.round,
    d.role,
    d.position,
    d.prompt_id,
    IF(d.source_table = 'responses', d.source_ids[0], NULL) AS response_id,
    explode(array_union(d.root_seed_ids, d.parent_ids)) AS source_id
  FROM {schema}.checkpoint_training_data AS d
  WHERE d.prompt_id IS NOT NULL
),
used AS (
  SELECT
    source_table, dataset, explode(array_distinct(source_ids)) AS source_id, checkpoint_id, run_id, round, role,
    position AS direct, NULL AS derived, NULL AS prompt_id, NULL AS response_id
  FROM direct
  UNION ALL
  SELECT
    'seed_prompts', s.dataset, d.source_id, d.checkpoint_id, d.run_id, d.round, d.role,
    NULL, d.position, d.prompt_id, d.response_id
  FROM derived AS d
  INNER JOIN {schema}.seed_prompts AS s ON s.text_sha256 = d.source_id
)
SELECT
  source_table,
  dataset,
  source_id,
  checkpoint_id,
  run_id,
  round,
  role,
  count(DISTINCT direct) AS rows_direct,
  count(DISTINCT derived) AS rows_derived,
  count(DISTINCT prompt_id) AS prompts,
  count(DISTINCT response_id) AS responses
FROM used
GROUP BY source_table, dataset, source_id, checkpoint_id, run_id, round, role
