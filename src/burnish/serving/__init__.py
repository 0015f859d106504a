"""The server: the OpenAI API for files, jobs, models and answers, on your own machine."""
