-- Which checkpoints are published: named by a training step that is done? Warm ones belong to no run.
--
-- checkpoint_id: digest of the recipe
-- run_id: the run; bootstrap for a warm checkpoint, which any run may use
-- round: round of the run
-- role: adversary, target, safety_rm or helpfulness_rm
-- kind: lora, full or classifier
-- parent_checkpoint_id: the checkpoint it continues
-- base: model source of the base
-- base_digest: digest of the base's tensors
-- training_root: digest over the training rows' digests
-- training_rows: rows of the training set
-- training_table_version: version of training_examples the snapshot was taken at
-- weights_sha256: digest of the tensors
-- path: directory under the artifact root
-- recorded_at: when it was registered, UTC
SELECT
  checkpoint_id,
  run_id,
  round,
  role,
  kind,
  parent_checkpoint_id,
  base,
  base_digest,
  training_root,
  training_rows,
  training_table_version,
  weights_sha256,
  path,
  recorded_at
FROM {schema}.checkpoints AS c
LEFT SEMI JOIN {schema}.published_steps AS p
  ON startswith(p.step, 'train_') AND get_json_object(p.counts, '$.checkpoint_id') = c.checkpoint_id
