-- What does a checkpoint rest on, one step back?
--
-- checkpoint_id: the checkpoint
-- ancestor_id: a checkpoint; the digest of the tensors for a base, the judge's digest for a scorer given finished, the
--   endpoint for a hosted target
-- relation: parent, base, wrote_prompts, wrote_answers or selected_by; unknown stands for the last three of a checkpoint that was
--   registered before they were kept, until the next run or `mart step begin` fills them in
-- name: what the ancestor is: a role, a judge, the model source of a base, or the model behind an endpoint
-- training_rows: training rows behind the relation; null for parent and base
SELECT checkpoint_id, input.id AS ancestor_id, input.relation AS relation, input.name AS name, NULL AS training_rows
FROM (
  SELECT
    checkpoint_id,
    explode(
      array(
        named_struct('relation', 'parent', 'id', parent_checkpoint_id, 'name', role),
        named_struct('relation', 'base', 'id', base_digest, 'name', base)
      )
    ) AS input
  FROM {schema}.published_checkpoints
)
WHERE input.id IS NOT NULL
UNION ALL
SELECT o.checkpoint_id, o.ancestor_id, o.relation, o.name, sum(o.training_rows)
FROM {schema}.checkpoint_origins AS o
LEFT SEMI JOIN {schema}.published_checkpoints AS c ON c.checkpoint_id = o.checkpoint_id
WHERE o.relation != 'drawn_from'
GROUP BY o.checkpoint_id, o.ancestor_id, o.relation, o.name
UNION ALL
SELECT c.checkpoint_id, 'unknown', 'unknown', 'unknown', c.training_rows
FROM {schema}.published_checkpoints AS c
LEFT ANTI JOIN {schema}.checkpoint_origins AS o ON o.checkpoint_id = c.checkpoint_id
