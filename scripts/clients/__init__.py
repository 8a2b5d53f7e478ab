"""Programs that people use with OpenAI's API, tried against govor's servers; README.md has the story."""
