"""The few lines that matter: slide -> tiles -> scores -> maps, over a cohort."""
