"""Who generates and who scores: two small protocols, and their implementations."""
