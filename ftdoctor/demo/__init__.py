"""`ftdoctor demo`: a real run broken on purpose, diagnosed live, repaired, merged and asked; small models for it."""
