package server

import (
	"context"
	"time"

	"assay/inventory"
	"assay/store"
)

// inventoryPoll is how often it is looked whether what runs belongs to other
// services than it did.
const inventoryPoll = 2 * time.Second

// openInventory opens what runs where.
func (s *Server) openInventory() {
	s.inventory = inventory.New(s.db, inventory.Options{Catalogue: s.catalogue, Own: func(host string) bool { return host == s.host() || host == s.data.site.Host }, Identified: s.identified})
}

// catalogue is the one in force; before the documents are loaded, none.
func (s *Server) catalogue() *inventory.Catalogue {
	if d := s.desired.Load(); d != nil {
		return d.Inventory
	}
	return nil
}

// reassign brings what runs to the catalogue in force, once for each.
func (s *Server) reassign(ctx context.Context) error {
	book := s.catalogue()
	if book == nil || s.assigned.Load() == book {
		return nil
	}
	if err := s.db.Update(ctx, func(tx *store.Tx) error {
		_, err := s.inventory.Reassign(ctx, tx)
		return err
	}); err != nil {
		return err
	}
	s.assigned.Store(book)
	return nil
}
