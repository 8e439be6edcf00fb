#!/bin/sh
# Makes the certificates and keys of the tests anew, by strongSwan's pki (package strongswan-pki): an implementation that
# isn't ours. They are valid for ten years; the tests' clock stands in January 2027.
set -eu
cd "$(dirname "$0")"
umask 077
days=3650

key() { pki --gen --type "$2" --size "$3" --outform pem >"$1.key"; }
authority() { key "$1" "$2" "$3" && pki --self --ca --in "$1.key" --type "$2" --lifetime $days --dn "CN=$1" --outform pem >"$1.pem"; }
# issue NAME AUTHORITY SUBJECT [OPTION..]
issue() {
	name=$1 authority=$2 subject=$3
	shift 3
	pki --issue --cacert "$authority.pem" --cakey "$authority.key" --in "$name.key" --type priv --lifetime $days \
		--dn "$subject" --outform pem "$@" >"$name.pem"
}

authority ecdsa-ca ecdsa 384
authority rsa-ca rsa 2048
authority stranger-ca ecdsa 256

key ecdsa-a ecdsa 256 && issue ecdsa-a ecdsa-ca "C=CH, O=Test, CN=a" --san a.example.org --san 10.0.0.1 --san a@example.org
# Behind an intermediate authority, whose certificate is sent along.
key ecdsa-middle ecdsa 256 && issue ecdsa-middle ecdsa-ca "CN=ecdsa-middle" --ca
key ecdsa-b ecdsa 384 && issue ecdsa-b ecdsa-middle "C=CH, O=Test, CN=b" --san b.example.org
cat ecdsa-middle.pem >>ecdsa-b.pem
key rsa-a rsa 2048 && issue rsa-a rsa-ca "C=CH, O=Test, CN=a" --san a.example.org
key rsa-b rsa 2048 && issue rsa-b rsa-ca "C=CH, O=Test, CN=b" --san b.example.org
key stranger-a ecdsa 256 && issue stranger-a stranger-ca "C=CH, O=Test, CN=a" --san a.example.org
rm -f ./*-ca.key ecdsa-middle.key ecdsa-middle.pem
chmod 644 ./*.pem
