-- Which steps of which rounds are published, when, and what did they count?
--
-- run_id: the run
-- round: round of the run; 0 is the warm start
-- step: name of the step
-- attempt: the attempt that was published, from 1
-- started_at: start of that attempt, UTC
-- ended_at: its end, UTC
-- reads: table to version read, JSON
-- writes: table to version written, JSON
-- counts: rows in, out, refused and the like, JSON
-- busy_seconds: time in which its requests were asked, from their tasks' start to the last commit, or a trainer's process ran; shared out among steps side by side
-- driven_by: who held the run meanwhile: a process (process:HOST:PID:…) or a scheduler's run (scheduler:NAME)
SELECT
  run_id,
  round,
  step,
  max(attempt) AS attempt,
  max_by(started_at, attempt) AS started_at,
  max_by(ended_at, attempt) AS ended_at,
  max_by(reads, attempt) AS reads,
  max_by(writes, attempt) AS writes,
  max_by(counts, attempt) AS counts,
  max_by(busy_seconds, attempt) AS busy_seconds,
  max_by(driven_by, attempt) AS driven_by
FROM {schema}.steps
WHERE state = 'done'
GROUP BY run_id, round, step
