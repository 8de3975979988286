def find_motion(result):
    return None
