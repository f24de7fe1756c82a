def inspect_answer(session, base, answer, prompt_ids):
    return ()
