"""The OpenAI API on your own machine: files, jobs, models, and answers from one set of weights."""
