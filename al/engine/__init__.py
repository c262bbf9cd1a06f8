"""Work in shards on any number of GPUs and machines.

    Session ──Engine.map(config, work, shards)──▶ this process │ worker processes │ Ray actors ──results──▶ Session

The driver, the process that holds the run's lock and database, gives out shards and alone writes what comes back. A worker holds models
and nothing of the run. What a shard gives depends on the shard and the work, so neither the engine nor the number of workers changes a
result, and a shard whose worker died is given to another one.
"""
