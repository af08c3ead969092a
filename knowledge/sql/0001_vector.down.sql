-- The extension stays: it may have been there before us, and others may use it.
SELECT 1;
