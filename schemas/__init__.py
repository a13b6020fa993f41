"""The contracts between the rooms: tables as data, identities, manifests and the one rendering.

Nothing here imports Spark, torch or transformers, so that every other room can depend on it.
"""
