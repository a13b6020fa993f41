-- What does a checkpoint rest on, one step back?
--
-- checkpoint_id: the checkpoint
-- ancestor_id: a checkpoint; the digest of the tensors for a base, the judge's digest for a scorer given finished, the
--   endpoint for a hosted target
-- relation: parent, base, wrote_prompts, wrote_answers or selected_by
-- name: what the ancestor is: a role, a judge, the model source of a base, or the model behind an endpoint
-- training_rows: training rows behind the relation; null for parent and base
WITH hosted AS (
  SELECT
    run_id,
    get_json_object(config, '$.target.endpoint.base_url') AS endpoint,
    get_json_object(config, '$.target.endpoint.model') AS model
  FROM {schema}.runs
),
learned AS (
  SELECT
    t.checkpoint_id,
    t.position,
    explode(
      concat(
        array(named_struct('relation', 'wrote_prompts', 'id', prompt_checkpoint_id, 'name', 'adversary')),
        transform(
          selections,
          s -> named_struct(
            'relation',
            'wrote_answers',
            'id',
            coalesce(s.target_checkpoint_id, h.endpoint),
            'name',
            CASE WHEN s.target_checkpoint_id IS NULL THEN h.model ELSE 'target' END
          )
        ),
        flatten(
          transform(
            selections,
            s -> transform(
              s.judges,
              j -> named_struct('relation', 'selected_by', 'id', coalesce(j.checkpoint_id, j.digest), 'name', j.judge)
            )
          )
        )
      )
    ) AS input
  FROM {schema}.checkpoint_training_data AS t
  LEFT JOIN hosted AS h ON h.run_id = t.run_id
  WHERE t.prompt_id IS NOT NULL
)
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
SELECT checkpoint_id, input.id, input.relation, input.name, count(DISTINCT position)
FROM learned
WHERE input.id IS NOT NULL -- the bare base, which stands there already
GROUP BY checkpoint_id, input.id, input.relation, input.name
