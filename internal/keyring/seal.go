package keyring

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"strconv"
	"sync"

	"golang.org/x/crypto/scrypt"
)

// scryptLogN is scrypt's cost as its author's 2017 note has it for files:
// 128 MiB, some 0.4 s, once at start.
const scryptLogN = 17

const saltSize = 16

// seal derives the cipher of a passphrase, and remembers it by salt.
type seal struct {
	passphrase []byte

	mu    sync.Mutex
	salt  []byte // the last one used: new keys take it
	logN  int
	known map[string]cipher.AEAD
}

// own is the cipher for new keys: that of the keys that are there, else one of
// a fresh salt.
func (s *seal) own() ([]byte, cipher.AEAD, error) {
	s.mu.Lock()
	salt := s.salt
	if s.logN != scryptLogN {
		salt = nil
	}
	s.mu.Unlock()
	if salt == nil {
		salt = make([]byte, saltSize)
		if _, err := rand.Read(salt); err != nil {
			return nil, nil, err
		}
	}
	aead, err := s.cipher(salt, scryptLogN)
	return salt, aead, err
}

func (s *seal) cipher(salt []byte, logN int) (cipher.AEAD, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	name := string(salt) + strconv.Itoa(logN)
	if c := s.known[name]; c != nil {
		return c, nil
	}
	k, err := scrypt.Key(s.passphrase, salt, 1<<logN, 8, 1, 32)
	if err != nil {
		return nil, err
	}
	block, err := aes.NewCipher(k)
	if err != nil {
		return nil, err
	}
	c, err := cipher.NewGCM(block)
	if err != nil {
		return nil, err
	}
	if s.known == nil {
		s.known = map[string]cipher.AEAD{}
	}
	s.known[name], s.salt, s.logN = c, salt, logN
	return c, nil
}
