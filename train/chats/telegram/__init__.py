"""Readers of Telegram's exports, and the way from any program's messages to one person's dialogues and rows."""
