"""From whatever people have to checked rows. No torch here."""
