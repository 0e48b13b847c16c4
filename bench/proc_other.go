//go:build !linux

package main

import (
	"math"
	"os"
	"os/exec"
	"time"
)

// Processor times and memory are read from /proc; elsewhere the benchmark
// measures rates alone.

func bind(*exec.Cmd) {}

func flushDisk() {}

func processCPU(int) time.Duration { return 0 }

func machineCPU() time.Duration { return 0 }

func residentBytes(int) int64 { return 0 }

func peakBytes(int) int64 { return 0 }

func forgetPeak(int) {}

func ownCPU() time.Duration { return 0 }

func threadCPU() time.Duration { return 0 }

func freeBytes(string) int64 { return math.MaxInt64 }

func maxResident(*os.ProcessState) float64 { return 0 }
