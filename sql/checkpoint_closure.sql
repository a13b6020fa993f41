-- What does a checkpoint rest on, all the way back? One row for each ancestor and the way in which it came in.
--
-- checkpoint_id: the checkpoint
-- ancestor_id: as in checkpoint_inputs: a checkpoint, the digest of a base's tensors, a judge's digest, or an endpoint
-- relation: parent, base, wrote_prompts, wrote_answers or selected_by: what it was to a checkpoint on the way; or unknown, as in
--   checkpoint_inputs
-- name: what the ancestor is: a role, a judge, the model source of a base, or the model behind an endpoint
-- distance: least number of steps back; 1 is a checkpoint's own input
WITH inputs AS (
  SELECT checkpoint_id, collect_list(named_struct('id', ancestor_id, 'relation', relation, 'name', name)) AS inputs
  FROM {schema}.checkpoint_inputs
  GROUP BY checkpoint_id
),
-- Checkpoints are few, rows are not: the graph is one value, and each closure a fold over it. WITH RECURSIVE would run
-- checkpoint_inputs again at every step, which Spark 4.1 refuses where partitions are pruned (SPARK internal error:
-- unresolved dynamicpruning), and would follow every path, of which there are two to the power of the rounds.
graph AS (
  SELECT map_from_entries(collect_list(struct(checkpoint_id, inputs))) AS inputs_of FROM inputs
),
starts AS (
  SELECT inputs_of, explode(map_keys(inputs_of)) AS checkpoint_id FROM graph
),
reached AS (
  SELECT
    checkpoint_id,
    inputs_of,
    aggregate(
      sequence(1, size(inputs_of)), -- no way is longer than there are checkpoints
      array(named_struct('id', checkpoint_id, 'distance', 0)),
      (seen, step) -> concat(
        seen,
        transform(
          array_except(
            array_distinct(
              flatten(
                transform(
                  filter(seen, s -> s.distance = step - 1), s -> transform(coalesce(inputs_of[s.id], array()), i -> i.id)
                )
              )
            ),
            transform(seen, s -> s.id)
          ),
          x -> named_struct('id', x, 'distance', step)
        )
      )
    ) AS seen
  FROM starts
),
ways AS (
  SELECT
    checkpoint_id,
    explode(
      flatten(
        transform(
          seen,
          s -> transform(
            coalesce(inputs_of[s.id], array()),
            i -> named_struct('id', i.id, 'relation', i.relation, 'name', i.name, 'distance', s.distance + 1)
          )
        )
      )
    ) AS way
  FROM reached
)
SELECT
  checkpoint_id, way.id AS ancestor_id, way.relation AS relation, way.name AS name, min(way.distance) AS distance
FROM ways
GROUP BY checkpoint_id, way.id, way.relation, way.name
