// Receive webhooks: verify each, drop duplicates, process it, respond.
//
//	WEBHOOK_SECRET=… go run examples/receivers/receiver.go
//
// It needs only Go's standard library. Settings, from the environment:
//
//	WEBHOOK_SECRET           the webhook's secret, whsec_… or any other text
//	WEBHOOK_SECRET_PREVIOUS  also accepted, during a rotation
//	WEBHOOK_SCHEME           standard (webhook-signature), or simple (X-Webhook-Signature)
//	HOST, PORT               listening address: 127.0.0.1, 9000
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
	// Maximum clock difference of a request, to reject replays. Each attempt is signed when it is
	// sent, so late retries pass.
	tolerance    = 300 * time.Second
	mostBody     = 1 << 20 // bytes
	mostIDs      = 100_000 // a few MB
	idleDuration = 60 * time.Second
)

// handle processes an event: replace it with your own code. If it returns an error, the response is
// 500 and the delivery is repeated. Keep it short, such as an insert into a table.
func handle(id, eventType string, payload json.RawMessage) error {
	_, err := fmt.Println(id, eventType, string(payload))
	return err
}

// refused is the response to a rejected request.
type refused struct {
	status int
	reason string
}

func (r refused) Error() string { return r.reason }

var unknownSignature = refused{401, "the signature does not match a known secret"}

// --- Signatures

// verify verifies a request by Standard Webhooks. The body is the raw bytes; a re-serialised one may
// differ.
func verify(header http.Header, body []byte, secrets []string) error {
	timestamp := header.Get("webhook-timestamp")
	seconds, err := strconv.ParseUint(timestamp, 10, 40)
	if err != nil {
		return refused{400, "webhook-timestamp is missing or invalid"}
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
	// There are several signatures during a rotation. Versions other than v1 never match.
	if !anyEqual(expected, strings.Split(header.Get("webhook-signature"), " ")) {
		return unknownSignature
	}
	// Check the time after the signature, so that strangers learn nothing about this clock.
	if time.Since(time.Unix(int64(seconds), 0)).Abs() > tolerance {
		return refused{401, "the timestamp is too far from the current time"}
	}
	return nil
}

// verifySimple verifies a request by the simple scheme. It covers only the body, so a captured request
// can be replayed indefinitely, with any webhook-id.
func verifySimple(header http.Header, body []byte, secrets []string) error {
	var expected []string
	for _, secret := range secrets {
		expected = append(expected, "sha256="+hex.EncodeToString(sum([]byte(secret), body)))
	}
	// For a day after a rotation, there is a second signature with the previous secret.
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

// signingKey returns the key: a decoded whsec_ secret, or the text itself.
func signingKey(secret string) ([]byte, error) {
	encoded, isEncoded := strings.CutPrefix(secret, "whsec_")
	if !isEncoded {
		return []byte(secret), nil
	}
	return base64.RawStdEncoding.DecodeString(strings.TrimRight(encoded, "="))
}

// anyEqual reports whether the lists share an element, comparing in constant time.
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

// --- Duplicates

// repeats holds the ids of handled deliveries in memory, so a duplicate after a restart is handled
// again. If that matters, use a table with a unique webhook-id, and write to it in the transaction that
// does the work.
type repeats struct {
	mutex sync.Mutex
	ids   map[string]bool
	order []string
}

// once calls work unless it already succeeded for this id.
func (r *repeats) once(id string, work func() error) error {
	// Locked during the work, so that concurrent duplicates are handled once.
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
		return refused{405, "use POST"}
	}
	id := request.Header.Get("webhook-id")
	if id == "" {
		return refused{400, "webhook-id is missing"}
	}
	body, err := io.ReadAll(http.MaxBytesReader(writer, request.Body, mostBody))
	if tooLarge := (*http.MaxBytesError)(nil); errors.As(err, &tooLarge) {
		return refused{413, fmt.Sprintf("the body exceeds %d bytes", mostBody)}
	} else if err != nil {
		return refused{400, "the body is incomplete"}
	}
	if err := r.check(request.Header, body, r.secrets); err != nil {
		return err
	}
	if !json.Valid(body) {
		return refused{400, "the body is not JSON"}
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
		http.Error(writer, "processing failed", http.StatusInternalServerError)
	}
}

func main() {
	secret, scheme := os.Getenv("WEBHOOK_SECRET"), cmp.Or(os.Getenv("WEBHOOK_SCHEME"), "standard")
	checks := map[string]func(http.Header, []byte, []string) error{
		"standard": verify, "simple": verifySimple,
	}
	check := checks[scheme]
	if secret == "" || check == nil {
		log.Fatal("set WEBHOOK_SECRET to the webhook's secret; WEBHOOK_SCHEME must be standard or simple")
	}
	secrets := []string{secret}
	if previous := os.Getenv("WEBHOOK_SECRET_PREVIOUS"); previous != "" {
		secrets = append(secrets, previous)
	}
	for _, each := range secrets {
		if _, err := signingKey(each); err != nil {
			log.Fatal("the part of a secret after whsec_ must be base64")
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
