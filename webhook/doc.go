// Package webhook tells other systems what happened here: a signed HTTP request
// for each event that a hook asks for, as CDEvents 0.4.1 in CloudEvents 1.0.
//
// Deliveries are queued in the transaction that moves the cursor over the event
// log, so that each event reaches each hook at least once, whatever crashes when.
// A receiver tells copies by the Idempotency-Key header (which is also ce-id and
// webhook-id): the same for every attempt, another for every event and hook.
//
// # Signature
//
// With a secret, each request carries the headers of the Standard Webhooks
// specification: webhook-id, webhook-timestamp (seconds) and webhook-signature
// "v1,BASE64", an HMAC-SHA256 over "ID.TIMESTAMP.BODY".
//
// # Retries
//
// Any answer but 2xx is tried again: after 5 s, then twice as long each time up to
// an hour, for three days; 410 Gone ends at once. Then the delivery is given up,
// kept for thirty days to be sent again by hand, and told by an alert event.
// Redirects are not followed, and no address of a metadata service is contacted.
package webhook
