package main

import "context"

func (b *bench) evidence(ctx context.Context) error { return ctx.Err() }
