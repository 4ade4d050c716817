"""The demo: real pictures, a real web server that misbehaves, three nights through the job, and what came of them."""
