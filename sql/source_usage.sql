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
WITH uses AS (
  SELECT
    checkpoint_id,
    run_id,
    round,
    role,
    position,
    prompt_id,
    IF(source_table = 'responses', source_ids[0], NULL) AS response_id,
    explode(
      concat(
        flatten(
          transform(
            datasets,
            d -> transform(
              array_distinct(source_ids), id -> named_struct('source_table', source_table, 'dataset', d, 'id', id)
            )
          )
        ),
        transform(
          coalesce(array_union(root_seed_ids, parent_ids), array()),
          id -> named_struct('source_table', 'seed_prompts', 'dataset', CAST(NULL AS STRING), 'id', id)
        )
      )
    ) AS source
  FROM {schema}.checkpoint_training_data
),
held AS (
  SELECT 'seed_prompts' AS source_table, dataset, text_sha256 AS id FROM {schema}.seed_prompts
  UNION
  SELECT 'instructions', dataset, text_sha256 FROM {schema}.instructions
  UNION
  SELECT 'preferences', dataset, example_sha256 FROM {schema}.preferences
),
named AS (
  SELECT u.*, u.source.dataset IS NOT NULL AS direct, h.dataset
  FROM uses AS u
  -- Of a training row's data sets, each need not hold all of its sources. What a prompt was made from may be a prompt, which
  -- has no data set.
  INNER JOIN held AS h
    ON h.source_table = u.source.source_table AND h.id = u.source.id
    AND (u.source.dataset IS NULL OR h.dataset = u.source.dataset)
)
SELECT
  source.source_table AS source_table,
  dataset,
  source.id AS source_id,
  checkpoint_id,
  run_id,
  round,
  role,
  count(DISTINCT IF(direct, position, NULL)) AS rows_direct,
  count(DISTINCT IF(direct, NULL, position)) AS rows_derived,
  count(DISTINCT prompt_id) AS prompts,
  count(DISTINCT response_id) AS responses
FROM named
GROUP BY source.source_table, dataset, source.id, checkpoint_id, run_id, round, role
