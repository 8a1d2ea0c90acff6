#!/bin/sh
# Makes the certificates of tests/it/publish/tls.rs anew, with OpenSSL 3: ./make.sh
#
# They are files, not made by the tests, because that would take a dozen more crates, or an OpenSSL on every machine
# that runs the tests. The key protects nothing: it is published here. The authorities' keys are thrown away.
#
#   authority.pem     whom the agent trusts
#   stranger.pem      an authority that has signed nothing here
#   server.pem        of CloudWatch in eu-west-1 and of this machine, valid for a century
#   expired.pem       the same, valid for the year 2001
#   server.key        the key of both
set -eu
cd "$(dirname "$0")"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

authority() {
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -noenc -days 36500 -subj "/CN=gpushare test $1" \
        -addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign \
        -keyout "$work/$1.key" -out "$1.pem"
}

# certificate FILE BEGIN END: signed by the authority, times as YYYYMMDDHHMMSSZ
certificate() {
    openssl ca -batch -notext -config "$work/ca.conf" -in "$work/server.csr" -startdate "$2" -enddate "$3" -out "$1"
}

authority authority
authority stranger
openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -noenc -subj "/CN=gpushare test server" \
    -keyout server.key -out "$work/server.csr"

: > "$work/index.txt"
cat > "$work/ca.conf" <<END
[ca]
default_ca = here
[here]
database = $work/index.txt
rand_serial = yes
unique_subject = no
new_certs_dir = $work
certificate = authority.pem
private_key = $work/authority.key
default_md = sha256
policy = any
x509_extensions = server
[any]
commonName = supplied
[server]
basicConstraints = critical,CA:FALSE
extendedKeyUsage = serverAuth
subjectAltName = DNS:monitoring.eu-west-1.amazonaws.com,DNS:localhost,IP:127.0.0.1
END
certificate server.pem 20200101000000Z 21200101000000Z
certificate expired.pem 20010101000000Z 20020101000000Z
