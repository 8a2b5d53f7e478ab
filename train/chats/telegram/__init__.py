"""From a Telegram Desktop export to one person's dialogues and training rows."""
