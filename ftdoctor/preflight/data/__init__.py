"""What the model will learn from: raw rows against their type, prepared rows, and their parity with inference."""
