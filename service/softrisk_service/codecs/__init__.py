"""What the two protocols and their media types look like on the wire, and nothing else."""
