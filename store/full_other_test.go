//go:build !linux

package store_test

import "errors"

func childFull([]string) error   { return errors.ErrUnsupported }
func childLimits([]string) error { return errors.ErrUnsupported }
