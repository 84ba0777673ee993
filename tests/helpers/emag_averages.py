"""EMAG's averages in plain form."""



def averages(lives, beta):
    """E after each step by the closed form beta^k A_0 + (1 - beta) sum_j beta^(k-j) A_j."""
    return [beta**k * lives[0] + (1 - beta) * sum((beta ** (k - j) * lives[j] for j in range(1, k + 1)), 0 * lives[0])
            for k in range(len(lives))]
