package config

// Backup says where `assay backup` writes and whom it encrypts to.
type Backup struct {
	// Folder is a local folder, or one that is mounted.
	Folder string `yaml:"folder"`
	// S3 is a bucket instead. It should be another one than that of the blobs,
	// under other credentials.
	S3 S3 `yaml:"s3"`
	// Recipients are age recipients (age1…). Their identities belong elsewhere.
	Recipients []string `yaml:"recipients"`
	// Passphrase is "file:PATH" or "credential:NAME", instead of recipients.
	Passphrase string `yaml:"passphrase"`
}
