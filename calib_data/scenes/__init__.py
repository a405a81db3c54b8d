"""Pictures whose content is known: several drawings, charts and texts, with the questions that can be asked of them."""
