#!/bin/sh
# Makes the bucket $BUCKET with a lifecycle rule that removes chunks after $EXPIRE_DAYS days. Runs again without harm.
set -eu
AWS_ACCESS_KEY_ID=$(cat "$ACCESS_KEY_FILE")
AWS_SECRET_ACCESS_KEY=$(cat "$SECRET_KEY_FILE")
export AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY

aws s3api head-bucket --bucket "$BUCKET" >/dev/null 2>&1 || aws s3api create-bucket --bucket "$BUCKET"
aws s3api put-bucket-lifecycle-configuration --bucket "$BUCKET" --lifecycle-configuration '{"Rules": [
  {"ID": "kvconn", "Status": "Enabled", "Filter": {"Prefix": ""}, "Expiration": {"Days": '"$EXPIRE_DAYS"'},
   "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": 1}}]}'
echo "the bucket $BUCKET is ready"
