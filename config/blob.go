package config

import "assay/blob/s3"

// Blob says where the registry's content lies. Empty: in the data folder.
type Blob struct {
	// S3 keeps it in a bucket instead. It is chosen before the first start:
	// content does not move by itself (assay backup and restore move it).
	S3 S3 `yaml:"s3"`
}

// S3 names a bucket of an S3 service.
type S3 struct {
	// Endpoint is the service's address, https://HOST[:PORT]; http is for
	// loopback only. Empty: no S3.
	Endpoint string `yaml:"endpoint"`
	// Bucket must exist.
	Bucket string `yaml:"bucket"`
	// Prefix goes before every key, so that sites can share a bucket. Two sites
	// must not share a prefix.
	Prefix string `yaml:"prefix"`
	// Region is signed into requests; empty: us-east-1.
	Region string `yaml:"region"`
	// PathStyle asks for HOST/BUCKET/KEY instead of BUCKET.HOST/KEY.
	PathStyle bool `yaml:"path_style"`
	// Credentials is "file:PATH" in the form of AWS's shared credentials file,
	// "env" for AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or "imds" for the
	// cloud machine's metadata service. No place is tried that is not named.
	Credentials string `yaml:"credentials"`
	// CAFile is a PEM bundle trusted besides the system's.
	CAFile string `yaml:"ca_file"`
	// Compliance locks retained blobs in compliance mode, which nobody can undo.
	Compliance bool `yaml:"compliance"`
}

// Enabled says whether a bucket was named at all.
func (s S3) Enabled() bool { return s != S3{} }

// Options are what blob/s3 opens.
func (s S3) Options() s3.Options {
	return s3.Options{
		Endpoint: s.Endpoint, Bucket: s.Bucket, Prefix: s.Prefix, Region: s.Region, PathStyle: s.PathStyle,
		Credentials: s.Credentials, CAFile: s.CAFile, Compliance: s.Compliance,
	}
}
