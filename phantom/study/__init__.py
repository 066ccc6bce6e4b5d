"""The paper's claims in miniature, on the phantom set: arms, runs, results and their report."""
