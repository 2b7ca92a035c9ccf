"""What operators and sensors share: the base task, its retries, XComs, and the triggers."""
