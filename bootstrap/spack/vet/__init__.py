"""What is known of specs before anything is solved: from recipes, without running Spack."""
