// Package scan makes a bill of materials of what it is shown: an image in a
// registry, an OCI layout, an archive, a directory or a single program.
//
// Nothing is unpacked. Layers and archives are read as streams, the topmost
// layer first, so that a file which a later layer replaced or removed is never
// looked at; of the rest only the files that a reader asks for are held, one at
// a time, in memory or (large programs, databases) in a temporary file. An
// uncompressed archive on disk is read in place.
//
// # What is said
//
// A component is what an ecosystem's own tool would list, known by its package
// URL, once, with every place it was found in. Relations are those that the
// ecosystem states. What cannot be known makes the document incomplete
// (sbom.Header.Incomplete), with the reason: a program that does not say what it
// was built of, a file that could not be read. What is incomplete never counts
// as clean.
//
// # Hostile input
//
// Everything has a cap ([Limits]): bytes after decompression and their ratio,
// entries, one file, components. Names that leave the archive are refused. A
// layer's bytes must have the digest that its manifest gives.
package scan
