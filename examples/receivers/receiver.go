// Receives webhooks of pgbridge: verifies each, drops repeats, hands it on, and answers.
//
//	WEBHOOK_SECRET=… go run examples/receivers/receiver.go
//
// Nothing but Go's standard library is needed. Settings, all from the environment:
//
//	WEBHOOK_SECRET           the webhook's secret, whsec_… or any other text
//	WEBHOOK_SECRET_PREVIOUS  one more that is accepted, while the secret is changed
//	WEBHOOK_SCHEME           standard (webhook-signature), or simple (X-Webhook-Signature)
//	HOST, PORT               where to listen: 127.0.0.1, 9000
package main

import (
	"cmp"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"
)

const (
	// A request that was signed longer ago, or so far in the future, is refused as recorded by
	// somebody. Each attempt is signed anew when it is sent, so retries are never too old.
	tolerance    = 300 * time.Second
	mostBody     = 1 << 20 // bytes
	mostIDs      = 100_000 // a few MB
	idleDuration = 60 * time.Second
)

// handle does what the event is received for: yours to write. An error is answered 500, and the
// delivery comes again. Keep it short, such as an insert into a table of yours.
func handle(id, eventType string, payload json.RawMessage) error {
	_, err := fmt.Println(id, eventType, string(payload))
	return err
}

// refused is the answer to a request that is not taken.
type refused struct {
	status int
	reason string
}

func (r refused) Error() string { return r.reason }

var unknownSignature = refused{401, "no signature is by a secret that is known here"}

// --- is it genuine?

// verify verifies by the scheme of Standard Webhooks. The body is the bytes as they came: parsed and
// written again, they might be others.
func verify(header http.Header, body []byte, secrets []string) error {
	timestamp := header.Get("webhook-timestamp")
	seconds, err := strconv.ParseUint(timestamp, 10, 40)
	if err != nil {
		return refused{400, "webhook-timestamp is missing, or is no number of seconds"}
	}
	signed := append([]byte(header.Get("webhook-id")+"."+timestamp+"."), body...)
	var expected []string
	for _, secret := range secrets {
		key, err := signingKey(secret)
		if err != nil {
			return err
		}
		expected = append(expected, "v1,"+base64.StdEncoding.EncodeToString(sum(key, signed)))
	}
	// Several signatures, while the secret is being changed; other versions than v1 match nothing.
	if !anyEqual(expected, strings.Split(header.Get("webhook-signature"), " ")) {
		return unknownSignature
	}
	// Not before the signature: who cannot sign learns nothing about this machine's clock.
	if time.Since(time.Unix(int64(seconds), 0)).Abs() > tolerance {
		return refused{401, "signed too long ago, or in the future"}
	}
	return nil
}

// verifySimple verifies by the simple scheme, which signs nothing but the body. Who has recorded a
// request can send it again, at any time and with another webhook-id.
func verifySimple(header http.Header, body []byte, secrets []string) error {
	var expected []string
	for _, secret := range secrets {
		expected = append(expected, "sha256="+hex.EncodeToString(sum([]byte(secret), body)))
	}
	// By the new secret, and for a day after it was changed by the one before as well.
	given := []string{header.Get("X-Webhook-Signature"), header.Get("X-Webhook-Signature-Previous")}
	if !anyEqual(expected, given) {
		return unknownSignature
	}
	return nil
}

func sum(key, message []byte) []byte {
	mac := hmac.New(sha256.New, key)
	mac.Write(message)
	return mac.Sum(nil)
}

// signingKey returns what a whsec_ secret encodes, or the text itself.
func signingKey(secret string) ([]byte, error) {
	encoded, isEncoded := strings.CutPrefix(secret, "whsec_")
	if !isEncoded {
		return []byte(secret), nil
	}
	return base64.RawStdEncoding.DecodeString(strings.TrimRight(encoded, "="))
}

// anyEqual tells whether any is any of the other, in a time that does not tell how nearly.
func anyEqual(expected, given []string) bool {
	for _, one := range expected {
		for _, other := range given {
			if hmac.Equal([]byte(one), []byte(other)) {
				return true
			}
		}
	}
	return false
}

// --- repeats

// repeats has the ids of what was handled. In memory, so a repeat from before a restart is handled
// again; where that matters, have a table with a unique webhook-id, and write to it in the transaction
// that does the work.
type repeats struct {
	mutex sync.Mutex
	ids   map[string]bool
	order []string
}

// once calls work unless it was called for the id before, and did not fail.
func (r *repeats) once(id string, work func() error) error {
	// Held while it works: else the same delivery, sent twice at once, would be handled twice.
	r.mutex.Lock()
	defer r.mutex.Unlock()
	if r.ids[id] {
		return nil
	}
	if err := work(); err != nil {
		return err
	}
	r.ids[id] = true
	r.order = append(r.order, id)
	if len(r.order) > mostIDs {
		delete(r.ids, r.order[0])
		r.order = r.order[1:]
	}
	return nil
}

// --- HTTP

type receiver struct {
	secrets []string
	check   func(http.Header, []byte, []string) error
	repeats repeats
}

func (r *receiver) take(writer http.ResponseWriter, request *http.Request) error {
	if request.Method != http.MethodPost {
		return refused{405, "POST it"}
	}
	id := request.Header.Get("webhook-id")
	if id == "" {
		return refused{400, "webhook-id is missing"}
	}
	body, err := io.ReadAll(http.MaxBytesReader(writer, request.Body, mostBody))
	if tooLarge := (*http.MaxBytesError)(nil); errors.As(err, &tooLarge) {
		return refused{413, fmt.Sprintf("a body may have %d bytes", mostBody)}
	} else if err != nil {
		return refused{400, "the body broke off"}
	}
	if err := r.check(request.Header, body, r.secrets); err != nil {
		return err
	}
	if !json.Valid(body) {
		return refused{400, "the body is no JSON"}
	}
	return r.repeats.once(id, func() error {
		return handle(id, request.Header.Get("X-Webhook-Event"), body)
	})
}

func (r *receiver) ServeHTTP(writer http.ResponseWriter, request *http.Request) {
	err := r.take(writer, request)
	var no refused
	switch {
	case err == nil:
		writer.WriteHeader(http.StatusNoContent)
	case errors.As(err, &no):
		http.Error(writer, no.reason, no.status)
	default:
		log.Print(err)
		http.Error(writer, "it failed", http.StatusInternalServerError)
	}
}

func main() {
	secret, scheme := os.Getenv("WEBHOOK_SECRET"), cmp.Or(os.Getenv("WEBHOOK_SCHEME"), "standard")
	checks := map[string]func(http.Header, []byte, []string) error{
		"standard": verify, "simple": verifySimple,
	}
	check := checks[scheme]
	if secret == "" || check == nil {
		log.Fatal("set WEBHOOK_SECRET to the secret; WEBHOOK_SCHEME is standard or simple")
	}
	secrets := []string{secret}
	if previous := os.Getenv("WEBHOOK_SECRET_PREVIOUS"); previous != "" {
		secrets = append(secrets, previous)
	}
	for _, each := range secrets {
		if _, err := signingKey(each); err != nil {
			log.Fatal("what follows whsec_ in a secret has to be base64")
		}
	}
	host, port := cmp.Or(os.Getenv("HOST"), "127.0.0.1"), cmp.Or(os.Getenv("PORT"), "9000")
	listener, err := net.Listen("tcp", net.JoinHostPort(host, port))
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("listening on http://%s/\n", listener.Addr())
	server := &http.Server{
		Handler:           &receiver{secrets: secrets, check: check, repeats: repeats{ids: map[string]bool{}}},
		ReadHeaderTimeout: 10 * time.Second,
		ReadTimeout:       30 * time.Second,
		IdleTimeout:       idleDuration,
	}
	log.Fatal(server.Serve(listener))
}
