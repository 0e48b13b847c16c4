package main

import "context"

func (b *bench) registry(ctx context.Context) error { return ctx.Err() }
