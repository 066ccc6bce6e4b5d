"""Where rows come from: files on disk or a dataset on the hub, with tables beside them."""
