"""How the iterations are differentiated: gradient modes, the exact backward pass, the implicit gradient."""
