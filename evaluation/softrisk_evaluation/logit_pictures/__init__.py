"""Pictures of logits, clean beside attacked: what they are drawn from, and how."""
